"""Images and labels: listed, split, decoded, augmented."""
