"""Numbers as people read them: at most three significant digits, a true minus. Files keep all digits."""

from __future__ import annotations

MINUS = "\N{MINUS SIGN}"


def plain(value: float, digits: int = 1) -> str:
    """12.3, −12.3, 1,230: `digits` after the point below 100, none above, three significant ones at most; 1.23e20."""
    size = abs(value)
    if size >= 1e15:  # no float holds the digits that would follow
        mantissa, power = f"{size:.2e}".split("e")
        return f"{MINUS if value < 0 else ''}{mantissa}e{int(power)}"
    if size >= 99.95:
        size = float(f"{size:.3g}")
        digits = 0
    text = f"{size:,.{digits}f}"
    return f"{MINUS if value < 0 and float(text.replace(',', '')) else ''}{text}"


def signed(value: float, digits: int = 1) -> str:
    """As `plain`, with a plus: +1.2, −1.2; 0.0 without a sign."""
    text = plain(value, digits)
    return f"+{text}" if value > 0 and float(text.replace(",", "")) else text


def short(value: float) -> str:
    """Three significant digits of any size, as of a share: 0.455, 12.3, −0.00412, 2.6e−12."""
    if abs(value) >= 1000:
        return plain(value)
    text = f"{value:.3g}"
    if "e" in text and abs(value) >= 1e-6:
        text = f"{value:.8f}".rstrip("0").rstrip(".")
    return text.replace("-", MINUS) if float(text) else "0"


def interval(low: float | None, high: float | None, digits: int = 1) -> str:
    """ "−12.3 … +4.5"; a dash where there is none."""
    return "–" if low is None or high is None else f"{signed(low, digits)} … {signed(high, digits)}"


def p_text(p: float | None) -> str:
    """0.012, 1, < 0.001, or a dash."""
    return "–" if p is None else "< 0.001" if p < 0.001 else "1" if p >= 0.9995 else f"{p:.3f}"
