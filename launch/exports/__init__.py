"""Export a trained model in a form that other programs run, and prove that it gives the same results."""
