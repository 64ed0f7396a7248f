#!/usr/bin/env bash
# One virtual environment per peer, benchmarks/.venvs/<peer>/, holding the versions its figures were measured with.
#
#     benchmarks/peers/environments.sh [pysersic] [astrophot] [pyimfit]      (all three when none is named)
#
# One each, and none beside bayesprof: AstroPhot replaces part of Pyro's mass-matrix class when it is imported.
# An environment already built from the same requirements is left alone; remove its folder to build it afresh.
# PYTHON names the interpreter, 3.11 or later. pyimfit is compiled when pip finds no wheel: g++ with OpenMP.
set -euo pipefail

python=${PYTHON:-python3}
venvs="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)/.venvs"

requirements() {
    case "$1" in
        # pysersic reads its draws through ArviZ as it was before 1.0.
        pysersic)  echo pysersic==0.1.5 jax==0.10.2 jaxlib==0.10.2 numpyro==0.22.0 equinox==0.13.8 photutils==3.0.0 \
                        arviz==0.23.4 numpy==2.4.6 ;;
        # pyro-ppl is what AstroPhot's HMC runs on, optional to AstroPhot; arviz measures the effective sample size.
        astrophot) echo torch==2.13.0 astrophot==0.18.0 caskade==1.1.5 pyro-ppl==1.9.2 arviz==0.23.4 numpy==2.4.6 ;;
        pyimfit)   echo pyimfit==1.1 numpy==2.4.6 scipy==1.17.1 ;;
        *)         echo "unknown peer '$1': expected pysersic, astrophot or pyimfit" >&2; return 1 ;;
    esac
}

[ $# -gt 0 ] || set -- pysersic astrophot pyimfit
for peer in "$@"; do
    wanted=$(requirements "$peer")
    built="$venvs/$peer/built-from"
    if [ -f "$built" ] && [ "$(cat "$built")" = "$wanted" ]; then
        echo "$peer: up to date"
        continue
    fi
    "$python" -m venv "$venvs/$peer"
    # shellcheck disable=SC2086  # one word per requirement
    "$venvs/$peer/bin/python" -m pip install --quiet $wanted
    (cd "$venvs/$peer" && bin/python -c "import $peer")  # AstroPhot leaves a log file where it is imported
    echo "$wanted" > "$built"
    echo "$peer: ready"
done
