"""What people look at: the paper's figures, and one page with its tables and curves for a store's own trainings."""
