"""Formulas against numbers computed independently: by hand or in NumPy float64, with their source."""
