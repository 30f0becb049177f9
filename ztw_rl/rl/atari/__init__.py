"""All that is the Arcade Learning Environment's: emulators, frames, lives, games."""
