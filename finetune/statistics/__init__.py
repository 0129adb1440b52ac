"""What a classifier's scores say, with which certainty: metrics, intervals, paired tests, operating points."""
