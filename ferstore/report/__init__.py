"""What people look at: one page with the paper's tables and curves for a store's own trainings."""
