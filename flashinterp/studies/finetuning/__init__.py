"""Which neurons keep their words and their roles through fine-tuning?"""
