"""Pure computation: arrays in, arrays out. No I/O, no clock, no asyncio."""
