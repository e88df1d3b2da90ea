"""From prompt tokens to answer tokens. The border is `Engine.submit(Sequence) -> TokenStream` and its `cancel`."""
