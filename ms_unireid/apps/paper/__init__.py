"""The paper's tables: published numbers, plan, runs, report."""
