//! Staying when the story is told, until a person has seen enough.

use std::io::IsTerminal;

/// Whether there is a person who reads what we print and can answer.
pub fn somebody_watches() -> bool {
    std::io::stdin().is_terminal() && std::io::stdout().is_terminal()
}

/// Waits for Enter or Ctrl-C.
pub async fn until_enter_or_interrupt() {
    let (pressed, enter) = tokio::sync::oneshot::channel();
    // A thread of its own: nobody can call off a read of the terminal, and the runtime would wait for it at its end.
    std::thread::spawn(move || {
        // A terminal that went away is no reason to stay.
        let _ = std::io::stdin().read_line(&mut String::new());
        let _ = pressed.send(());
    });
    tokio::select! {
        _ = enter => {}
        _ = tokio::signal::ctrl_c() => {}
    }
}
