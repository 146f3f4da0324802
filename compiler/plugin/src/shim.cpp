// Passes of Rust in MLIR's registry, by name and with options: what MLIR's C API lacks. lib.rs holds the other side of each declaration.

#include "llvm/Config/llvm-config.h"
#include "mlir/CAPI/IR.h"
#include "mlir/IR/Diagnostics.h"
#include "mlir/Pass/Pass.h"
#include "mlir/Pass/PassManager.h"
#include "mlir/Pass/PassRegistry.h"

using namespace mlir;

extern "C" {
// The version of LLVM that this is compiled for.
extern const unsigned mxc_plugin_llvm[2];
const unsigned mxc_plugin_llvm[2] = {LLVM_VERSION_MAJOR, LLVM_VERSION_MINOR};

// UTF-8 that the caller owns.
struct MxcText {
  const char *data;
  size_t size;
};

// An option as given (key and value) or as declared (key, description; whether it takes a list).
struct MxcOption {
  MxcText key, text;
  bool isList;
};

// A pass of Rust. Everything lives as long as the plugin.
struct MxcPass {
  MxcText name, description;
  const MxcOption *options;
  size_t optionCount;
  // The pass's entry in Rust's registry.
  const void *entry;
};

// What Rust does. None unwinds.
struct MxcCalls {
  void (*registerDialects)(MlirDialectRegistry);
  // Hands an error of the options, if there is one, to `told`.
  void (*check)(const void *entry, const MxcOption *, size_t, void (*told)(void *, MxcText), void *);
  void *(*newState)();
  void (*dropState)(void *);
  // Runs the pass on a module; whether it succeeded. Has emitted its diagnostics.
  bool (*run)(const void *entry, const MxcOption *, size_t, void *state, MlirOperation);
};
}

namespace {
const MxcCalls *calls;

StringRef from(MxcText text) { return {text.data, text.size}; }
MxcText to(StringRef text) { return {text.data(), text.size()}; }

// What the passes of a pipeline share about a module, such as weights. The pass manager keeps it from the first pass to the last,
// whatever passes run in between.
struct State {
  MLIR_DEFINE_EXPLICIT_INTERNAL_INLINE_TYPE_ID(State)
  explicit State(Operation *) : rust(calls->newState()) {}
  ~State() { calls->dropState(rust); }
  bool isInvalidated(const AnalysisManager::PreservedAnalyses &) { return false; }
  void *rust;
};

class RustPass : public Pass {
public:
  MLIR_DEFINE_EXPLICIT_INTERNAL_INLINE_TYPE_ID(RustPass)
  explicit RustPass(const MxcPass &pass) : Pass(TypeID::get<RustPass>()), pass(pass) {
    for (size_t i = 0; i < pass.optionCount; ++i) {
      const MxcOption &option = pass.options[i];
      llvm::cl::desc text(from(option.text));
      if (option.isList)
        lists.push_back(std::make_unique<ListOption<std::string>>(*this, from(option.key), text));
      else
        singles.push_back(std::make_unique<Option<std::string>>(*this, from(option.key), text));
    }
  }
  StringRef getName() const override { return from(pass.name); }
  StringRef getArgument() const override { return from(pass.name); }
  StringRef getDescription() const override { return from(pass.description); }
  bool canScheduleOn(RegisteredOperationName name) const override {
    return name.getStringRef() == ModuleOp::getOperationName();
  }
  std::unique_ptr<Pass> clonePass() const override { return std::make_unique<RustPass>(pass); }
  void getDependentDialects(DialectRegistry &registry) const override { calls->registerDialects(wrap(&registry)); }

  LogicalResult initializeOptions(StringRef text, function_ref<LogicalResult(const Twine &)> error) override {
    if (failed(Pass::initializeOptions(text, error)))
      return failure();
    std::string wrong;
    auto told = [](void *wrong, MxcText text) { static_cast<std::string *>(wrong)->assign(text.data, text.size); };
    auto given = options();
    calls->check(pass.entry, given.data(), given.size(), told, &wrong);
    return wrong.empty() ? success() : error(wrong);
  }

  void runOnOperation() override {
    auto given = options();
    if (!calls->run(pass.entry, given.data(), given.size(), getAnalysis<State>().rust, wrap(getOperation())))
      signalPassFailure();
  }

private:
  // The options that are given. MLIR prints the others as empty, in reproducers too, and reads them back so.
  std::vector<MxcOption> options() const {
    std::vector<MxcOption> given;
    for (auto &option : singles)
      if (option->hasValue() && !option->getValue().empty())
        given.push_back({to(option->ArgStr), to(option->getValue()), false});
    for (auto &option : lists)
      for (const std::string &value : *option)
        given.push_back({to(option->ArgStr), to(value), true});
    return given;
  }

  const MxcPass &pass;
  std::vector<std::unique_ptr<Option<std::string>>> singles;
  std::vector<std::unique_ptr<ListOption<std::string>>> lists;
};
} // namespace

extern "C" {
// To be called once, before any other.
void mxc_plugin_begin(const MxcCalls *rust) { calls = rust; }

void mxc_plugin_register_pass(const MxcPass *pass) {
  registerPass([pass] { return std::make_unique<RustPass>(*pass); });
}

// `passes` is a pipeline's text.
void mxc_plugin_register_pipeline(MxcText name, MxcText description, MxcText passes) {
  registerPassPipeline(
      from(name), from(description),
      [=](OpPassManager &manager, StringRef options, function_ref<LogicalResult(const Twine &)> error) {
        if (!options.empty())
          return error(from(name) + " is short for " + from(passes) + ": give the options to its passes");
        return parsePassPipeline(from(passes), manager);
      },
      [](function_ref<void(const detail::PassOptions &)>) {});
}

// An error or a warning, with a note if `help` is not empty.
void mxc_plugin_emit(MlirLocation at, bool isError, MxcText message, MxcText help) {
  Location location = unwrap(at);
  InFlightDiagnostic diagnostic = isError ? emitError(location) : emitWarning(location);
  diagnostic << from(message);
  if (help.size)
    diagnostic.attachNote() << "help: " << from(help);
}
}
