#!/bin/sh
# Installs Debian's Chromium, which the browser tests drive, where it is missing. Playwright's own browsers are not used.
set -eu
for name in chromium chromium-browser google-chrome; do
  if command -v "$name" >/dev/null 2>&1; then
    exit 0
  fi
done
if ! command -v apt-get >/dev/null 2>&1; then
  echo "install_chromium.sh: there is no apt-get here; install Chromium, so that 'chromium' is on the PATH." >&2
  exit 1
fi
as_root=""
if [ "$(id -u)" -ne 0 ]; then
  as_root="sudo"
fi
$as_root apt-get -qq -o Acquire::Retries=3 update
$as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -y -o Acquire::Retries=3 install --no-install-recommends \
  chromium fonts-dejavu-core
