"""Draw samples, curves and reports. Only this package imports matplotlib."""
