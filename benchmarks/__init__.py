"""One script a question, each printing the ratio it is about."""
