"""DiffusionGemma, written once in backend verbs."""
