"""Can a concept be taken out by reversing rows (TARS)?"""
