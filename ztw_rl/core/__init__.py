"""Early exit on any sequential network: needs torch, and knows neither tasks nor data."""
