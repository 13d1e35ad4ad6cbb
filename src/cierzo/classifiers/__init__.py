"""Classifying texts with a language model: a question goes in front, the answers' logits are read.

Questions to prompts, readings to scores, heads fitted on examples, and the files that keep them.
Knows nothing of HTTP, nor who runs the prompts.
"""
