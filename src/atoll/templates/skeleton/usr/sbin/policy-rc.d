#!/bin/sh
# No init runs here: installing a package starts no service (`service NAME start` does).
exit 101
