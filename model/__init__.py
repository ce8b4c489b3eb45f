"""The method: momentum contrast, co-training, cascade positive retrieval, and the classifier that evaluates them."""
