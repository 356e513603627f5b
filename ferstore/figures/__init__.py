"""``ferstore figures``: composes three stages. The network is `extract`'s, the head `train`'s, `report` draws."""
