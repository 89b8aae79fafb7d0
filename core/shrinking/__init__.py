"""Physical removal of channels: what a network computes without them, exactly, in smaller layers."""
