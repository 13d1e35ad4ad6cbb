from tests.tokenizer.shared import vendor_tokenizers

__all__ = ["vendor_tokenizers"]
