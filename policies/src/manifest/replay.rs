//! Edits carried out again on a file that others have changed meanwhile.

use super::{Refusal, remove, set, value};
use crate::plan::{FieldEdit, SourceFile};

/// Carries edits out on a file as it stands now, and leaves everything that others changed.
///
/// For an undo after foreign commits, where the blob from before would take theirs back too. An edit whose value stands
/// there already is skipped, so that twice is once; any other value than the one to be replaced belongs to somebody else.
///
/// # Errors
/// [`Refusal::Moved`] when somebody else has set one of the fields, else the reasons of [`set`] and [`remove`].
pub fn replay(file: &SourceFile, edits: &[FieldEdit]) -> Result<SourceFile, Refusal> {
    let mut file = file.clone();
    for edit in edits {
        let now = value(&file, &edit.object, &edit.field)?;
        if now == edit.to {
            continue;
        }
        if now != edit.from {
            return Err(Refusal::Moved {
                path: file.path.clone(),
                field: edit.field.to_string(),
                now: shown(now.as_deref()),
                wanted: shown(edit.from.as_deref()),
            });
        }
        file = match &edit.to {
            Some(to) => set(&file, &edit.object, &edit.field, to)?.file,
            None => remove(&file, &edit.object, &edit.field)?.file,
        };
    }
    Ok(file)
}

fn shown(value: Option<&str>) -> String {
    value.map_or("absent".into(), crate::policy::quoted)
}
