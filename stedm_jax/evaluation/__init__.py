"""From predictions to a report: confusion matrices, patient statistics, stains, figures."""
