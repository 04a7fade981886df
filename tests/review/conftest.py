"""One browser for all tests of the review app."""

from __future__ import annotations

import pytest
import web_running


@pytest.fixture(scope="session")
def browser():
    """A chromium that is started once."""
    found = web_running.chromium()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(
            executable_path=found, args=list(web_running.ARGUMENTS)
        )
        yield launched
        launched.close()


@pytest.fixture
def new_page(browser):
    """Open pages of their own contexts; a script error or a refused script fails the test."""
    contexts, complaints = [], []

    def make(**options):
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **options})
        context.set_default_timeout(8000)
        context.add_cookies([*web_running.ADMITTED.values()])
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda line: _note(complaints, line))
        page.on("dialog", lambda dialog: (complaints.append("a dialog"), dialog.dismiss()))
        return page

    yield make
    for context in contexts:
        context.close()
    assert not complaints


def _note(complaints, line):
    refused = line.type == "error" and "Content Security Policy" in line.text
    if refused:
        complaints.append(line.text)
