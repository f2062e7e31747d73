//! An error and its sources as one clause, for conditions and logs.

use std::error::Error;

/// The whole chain: `cannot push: cannot reach git.example.com: connection refused`.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = String::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let (said, last) = match refusal(error) {
            Some(said) => (said, true),
            None => (error.to_string(), false),
        };
        // Some libraries repeat their source in their own message.
        if text.is_empty() {
            text = said;
        } else if !text.contains(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        next = error.source().filter(|_| !last);
    }
    text
}

/// What the API server answered, in its own words: kube adds the whole Status to them, as a programmer would print it.
fn refusal(error: &(dyn Error + 'static)) -> Option<String> {
    match error.downcast_ref::<kube::Error>()? {
        kube::Error::Api(status) if status.message.is_empty() => Some(status.reason.clone()),
        kube::Error::Api(status) => Some(status.message.clone()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_of_the_api_server_is_told_in_its_own_words() {
        let status = kube::core::Status::failure("approvals is forbidden", "Forbidden").with_code(403).boxed();
        let error = anyhow::Error::from(kube::Error::Api(status)).context("cannot create the Approval");
        assert_eq!(chain(error.as_ref()), "cannot create the Approval: approvals is forbidden");
    }
}
