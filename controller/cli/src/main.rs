//! `amend`.

fn main() -> std::process::ExitCode {
    amend_cli::main()
}
