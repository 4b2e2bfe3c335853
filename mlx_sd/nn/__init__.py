"""Layers that two or more models share; they know shapes, not configurations."""
