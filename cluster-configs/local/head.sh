#!/usr/bin/env bash
# A Ray head on this machine alone, to try what a cluster will do.
#
#   source .venv/bin/activate                    # where `ray` is; in the other terminal too
#   cluster-configs/local/head.sh                # stays in the foreground; Ctrl-C ends it
#   cluster-configs/local/head.sh --num-cpus 4   # any option of `ray start --head`
#
# Then, in another terminal, from the top of the repository:
#
#   ray job submit --address http://127.0.0.1:8265 --working-dir . \
#       -- python jobs/classify.py --model URI --data URI --out URI
#
# Only this machine can reach it, and only with the token in ~/.ray/auth_token (or in
# RAY_AUTH_TOKEN, or in the file that RAY_AUTH_TOKEN_PATH names). Jobs see this terminal's
# environment, so export AWS_ACCESS_KEY_ID and the like here. No head is needed to work on one
# machine: `avader classify ...` starts its own Ray.
set -euo pipefail

export RAY_AUTH_MODE=token
if [[ -z ${RAY_AUTH_TOKEN:-}${RAY_AUTH_TOKEN_PATH:-} ]]; then
    ray get-auth-token --generate >/dev/null
fi

exec ray start --head --block --disable-usage-stats \
    --node-ip-address 127.0.0.1 --dashboard-host 127.0.0.1 "$@"
