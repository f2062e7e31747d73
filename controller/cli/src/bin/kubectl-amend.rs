//! `kubectl amend`: the same program under the name that kubectl looks for.

fn main() -> std::process::ExitCode {
    amend_cli::main()
}
