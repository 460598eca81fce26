#!/usr/bin/env bash
# Check and time the GPU path at the paper's scale, in at most eight minutes: bash benchmarks/gpu.sh [--device cuda:1]
# Needs PyTorch with CUDA and the packages of requirements.lock in PYTHON (default: .venv, else python3).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
PYTHON=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
exec timeout 480 "$PYTHON" -m benchmarks.gpu "$@"
