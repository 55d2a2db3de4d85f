"""Model servers outside calls: what is asked of them, and their health."""
