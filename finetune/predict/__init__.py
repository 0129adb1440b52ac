"""Use a trained classifier: on files and folders, long videos and cameras."""

from finetune.predict.classifier import Classifier, Prediction

__all__ = ["Classifier", "Prediction"]
