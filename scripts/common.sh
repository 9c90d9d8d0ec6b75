# What scripts/demo and scripts/test share: choosing a Python, making a private virtual environment.
# To be sourced with $root set to the checkout.

say() {
    echo "a64patch: $*" >&2
}

# Sets $python to the first Python that is new enough.
choose_python() {
    for python in python3 python3.14 python3.13 python3.12 python3.11; do
        "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && return
    done
    say "no Python 3.11 or newer was found: install one (Debian, Ubuntu: apt-get install python3)."
    exit 2
}

# The Debian package that $python lacks to make virtual environments; nothing when it can.
venv_package() {
    "$python" -c 'import ensurepip, venv' 2>/dev/null ||
        "$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])'
}

# Sets $as_root to what makes a command run as root without asking anybody; fails when nothing does.
may_install() {
    as_root=
    command -v apt-get >/dev/null || return
    [ "$(id -u)" = 0 ] && return
    as_root="sudo -n"
    sudo -n true 2>/dev/null
}

# install PACKAGE...: from the distribution where that is possible, otherwise says once what to install and fails.
install() {
    if ! may_install; then
        say "please install the Debian packages $* (as root: apt-get install --no-install-recommends $*)."
        return 1
    fi
    say "installing the Debian packages $*."
    apt_get="$as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0"
    # An update may fail for one source of many: whether the packages can be had is what counts.
    $apt_get update </dev/null >&2 || true
    # shellcheck disable=SC2086
    if ! $apt_get install --yes --no-install-recommends "$@" </dev/null >&2; then
        say "could not install the Debian packages $*; what apt-get said stands above."
        return 1
    fi
}

# make_venv NAME EXTRA: sets $venv to an environment that holds a64patch[EXTRA] from this checkout.
# It is made anew when pyproject.toml, the Python or the place of the checkout changed; otherwise nothing is done.
make_venv() {
    venv=$root/.venv/$1
    stamp="$root $("$python" -VV | tr '\n' ' ') $(cksum <"$root/pyproject.toml")"
    [ "$(cat "$venv/stamp" 2>/dev/null)" = "$stamp" ] && return
    package=$(venv_package)
    [ -z "$package" ] || install "$package" || exit 2
    say "preparing $venv (once)."
    rm -rf "$venv"
    "$python" -m venv "$venv"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --editable "$root[$2]" >&2
    printf '%s\n' "$stamp" >"$venv/stamp"
}
