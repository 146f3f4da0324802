//! Erasing operations, which no reference to them outlives.
//!
//! melior's references to operations, blocks and values are copied freely, so the borrow checker does not see that one of
//! them still points to what was erased. Here it does: a walk that erases runs inside [`ModuleMut::erasing`], which lends it
//! the module for a lifetime of its own and erases what the walk marked only when it is over. References into the module
//! cannot leave the walk, since its result names no such lifetime, and none from before it is left, since the module is
//! borrowed exclusively. There is no other way to erase.

use crate::ffi;
use melior::ir::{Module, OperationRef, operation::OperationLike};
use std::{collections::HashSet, marker::PhantomData, mem::ManuallyDrop, ops::Deref};

/// A module that may be changed: nobody holds references into it. Its owner keeps it.
pub struct ModuleMut<'c, 'm> {
    module: ManuallyDrop<Module<'c>>,
    owner: PhantomData<&'m mut Module<'c>>,
}

impl<'c, 'm> ModuleMut<'c, 'm> {
    /// Borrows a module from its owner.
    pub fn new(module: &'m mut Module<'c>) -> Self {
        Self::lent(ffi::lend(module))
    }

    /// A module that somebody owns whom the caller knows not to use it for `'m`.
    fn lent(module: ManuallyDrop<Module<'c>>) -> Self {
        Self { module, owner: PhantomData }
    }

    /// Runs `walk`, then erases what it marked.
    pub fn erasing<R>(&mut self, walk: impl for<'a> FnOnce(&'a Module<'c>, &mut Eraser<'c, 'a>) -> R) -> R {
        let mut eraser = Eraser { marked: Vec::new(), known: HashSet::new() };
        let result = walk(&self.module, &mut eraser);
        eraser.finish(self.module.as_operation());
        result
    }
}

impl<'c> Deref for ModuleMut<'c, '_> {
    type Target = Module<'c>;

    fn deref(&self) -> &Self::Target {
        &self.module
    }
}

/// What a walk wants erased once it is over.
pub struct Eraser<'c, 'a> {
    /// Each once, in the order of marking.
    marked: Vec<OperationRef<'c, 'a>>,
    /// The marked operations by address.
    known: HashSet<usize>,
}

impl<'c, 'a> Eraser<'c, 'a> {
    /// Marks an operation. When the walk is over it goes, unless one of its results is then used by an operation that stays.
    pub fn erase(&mut self, operation: OperationRef<'c, 'a>) {
        if self.known.insert(address(&operation)) {
            self.marked.push(operation);
        }
    }

    /// Whether an operation is marked: a walk passes over those it has dealt with.
    pub fn is_marked(&self, operation: &OperationRef<'c, 'a>) -> bool {
        self.known.contains(&address(operation))
    }

    /// Erases what is marked and not in use, users before what they use.
    fn finish(self, module: OperationRef<'c, 'a>) {
        let Self { marked, known } = self;
        let (module, known) = (address(&module), &known);
        // The module stays; what is inside a marked operation goes if that does.
        let mut left: Vec<_> = marked
            .into_iter()
            .filter(|operation| {
                let parents = std::iter::successors(operation.parent_operation(), |parent| parent.parent_operation());
                let mut parents = parents.map(|parent| address(&parent));
                parents.find(|parent| *parent == module || known.contains(parent)) == Some(module)
            })
            .collect();
        // Marking follows the program's order, in which users come last.
        left.reverse();
        loop {
            let before = left.len();
            left.retain(|operation| !ffi::erase(*operation));
            if left.len() == before {
                return;
            }
        }
    }
}

fn address(operation: &OperationRef<'_, '_>) -> usize {
    OperationLike::to_raw(operation).ptr as usize
}

/// Lends the `builtin.module` operation that a pass runs on as a module; `None` when it is another operation. MLIR runs one
/// pass at a time and holds no references into the module meanwhile.
pub fn with_module<'c, R>(
    operation: melior::ir::OperationRef<'c, '_>,
    action: impl FnOnce(&mut ModuleMut<'c, '_>) -> R,
) -> Option<R> {
    Some(action(&mut ModuleMut::lent(ffi::module_of(operation)?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir;

    const TEXT: &[u8] = b"
        ml_program.global private @w(dense<1.0> : tensor<2xf32>) : tensor<2xf32>
        func.func @main(%x: tensor<2xf32>) -> tensor<2xf32> {
            %0 = tosa.abs %x : (tensor<2xf32>) -> tensor<2xf32>
            %1 = tosa.exp %0 : (tensor<2xf32>) -> tensor<2xf32>
            %2 = tosa.floor %x : (tensor<2xf32>) -> tensor<2xf32>
            %3 = tosa.ceil %2 : (tensor<2xf32>) -> tensor<2xf32>
            return %3 : tensor<2xf32>
        }
        func.func private @other(%x: tensor<2xf32>) -> tensor<2xf32> {
            %0 = tosa.abs %x : (tensor<2xf32>) -> tensor<2xf32>
            return %0 : tensor<2xf32>
        }";

    fn names(module: &Module<'_>) -> Vec<String> {
        let operations = |function| ir::entry_block(function).map(ir::block_ops).unwrap_or_default();
        ir::module_ops(module).into_iter().flat_map(operations).map(|operation| ir::op_name(&operation)).collect()
    }

    #[test]
    fn marked_operations_go_after_the_walk() {
        let context = crate::new_context();
        let mut module = ir::parse(&context, TEXT, "test").unwrap();
        ModuleMut::new(&mut module).erasing(|module, eraser| {
            let main = ir::main_function(module).and_then(ir::entry_block).unwrap();
            let operations = ir::block_ops(main);
            // In any order, twice, and one that is used by an operation that stays.
            for index in [0, 1, 1, 2] {
                eraser.erase(operations[index]);
                assert!(eraser.is_marked(&operations[index]));
            }
            assert!(!eraser.is_marked(&operations[3]));
            assert_eq!(ir::op_name(&operations[1]), "tosa.exp");
        });
        assert!(module.as_operation().verify());
        assert_eq!(names(&module), ["tosa.floor", "tosa.ceil", "func.return", "tosa.abs", "func.return"]);
    }

    #[test]
    fn what_is_inside_goes_along() {
        let context = crate::new_context();
        let mut module = ir::parse(&context, TEXT, "test").unwrap();
        ModuleMut::new(&mut module).erasing(|module, eraser| {
            eraser.erase(module.as_operation());
            for operation in ir::module_ops(module) {
                if ir::string_attr(&operation, "sym_name").is_none_or(|name| name != ir::MAIN) {
                    eraser.erase(operation);
                    for inner in ir::entry_block(operation).map(ir::block_ops).unwrap_or_default() {
                        eraser.erase(inner);
                    }
                }
            }
        });
        assert!(module.as_operation().verify());
        assert_eq!(names(&module).len(), 5);
        assert!(ir::globals(&module).is_empty());
    }
}
