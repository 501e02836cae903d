"""Reports of comparisons, evaluations, and studies of days, each as one HTML file."""
