"""The words of the page in English and Chinese; each browser gets the language that it asks for first."""

import re
from pathlib import Path

import yaml
from nicegui import ui

_CHINESE: dict[str, str] = yaml.safe_load(Path(__file__).with_name("chinese.yaml").read_text(encoding="utf-8"))


def language_of(accepted: str) -> str:
    """Return "zh-CN" or "en-GB", whichever an Accept-Language header prefers; English if it names neither."""
    best, found = 0.0, "en-GB"
    for part in accepted[:1000].split(","):
        match = re.fullmatch(r"\s*(zh|en)\b[^;]*(?:;\s*q=([01](?:\.\d{0,3})?))?\s*", part, re.IGNORECASE)
        weight = float(match[2] or 1) if match else 0.0
        if weight > best:
            best, found = weight, "zh-CN" if match[1].lower() == "zh" else "en-GB"
    return found


def page_language() -> str:
    """Return the language of the present browser tab; English outside one."""
    try:
        request = ui.context.client.request
    except RuntimeError:
        return "en-GB"
    return language_of(request.headers.get("accept-language", "")) if request else "en-GB"


def t(text: str) -> str:
    """Return a text of the page in the language of the present browser tab."""
    return _CHINESE.get(text, text) if page_language() == "zh-CN" else text
