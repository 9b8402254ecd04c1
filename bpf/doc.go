// Package bpf holds the programs that run in the kernel, one family a file
// (NAME.bpf.c), their compiled objects, and what loads, attaches, reads and
// sheds them. Building needs no compiler: the objects are committed, and a test
// holds them against their sources where clang is installed.
//
// Programs attach to BTF tracepoints, iterators, perf events and uprobes only;
// kprobes and BPF trampolines (fentry) are refused on many hosts. Each family
// is tried for itself: one that this kernel does not take is a Need, and what
// the others tell stays.
package bpf

//go:generate go tool -modfile=../tools/go.mod bpf2go -tags linux -target bpfel -cc clang -cflags "-O2 -g -Wall -Werror -mcpu=v3" -strip llvm-strip -no-global-types waits waits.bpf.c
//go:generate go tool -modfile=../tools/go.mod bpf2go -tags linux -target bpfel -cc clang -cflags "-O2 -g -Wall -Werror -mcpu=v3" -strip llvm-strip -no-global-types profile profile.bpf.c
//go:generate go tool -modfile=../tools/go.mod bpf2go -tags linux -target bpfel -cc clang -cflags "-O2 -g -Wall -Werror -mcpu=v3" -strip llvm-strip -no-global-types block block.bpf.c
//go:generate go tool -modfile=../tools/go.mod bpf2go -tags linux -target bpfel -cc clang -cflags "-O2 -g -Wall -Werror -mcpu=v3" -strip llvm-strip -no-global-types reclaim reclaim.bpf.c
//go:generate go tool -modfile=../tools/go.mod bpf2go -tags linux -target bpfel -cc clang -cflags "-O2 -g -Wall -Werror -mcpu=v3" -strip llvm-strip -no-global-types journal journal.bpf.c
//go:generate go tool -modfile=../tools/go.mod bpf2go -tags linux -target bpfel -cc clang -cflags "-O2 -g -Wall -Werror -mcpu=v3" -strip llvm-strip -no-global-types teardown teardown.bpf.c
//go:generate go tool -modfile=../tools/go.mod bpf2go -tags linux -target bpfel -cc clang -cflags "-O2 -g -Wall -Werror -mcpu=v3" -strip llvm-strip -no-global-types life life.bpf.c
//go:generate go tool -modfile=../tools/go.mod bpf2go -tags linux -target bpfel -cc clang -cflags "-O2 -g -Wall -Werror -mcpu=v3" -strip llvm-strip -no-global-types locks locks.bpf.c
//go:generate go tool -modfile=../tools/go.mod bpf2go -tags linux -target bpfel -cc clang -cflags "-O2 -g -Wall -Werror -mcpu=v3" -strip llvm-strip -no-global-types packets packets.bpf.c
//go:generate go tool -modfile=../tools/go.mod bpf2go -tags linux -target bpfel -cc clang -cflags "-O2 -g -Wall -Werror -mcpu=v3" -strip llvm-strip -no-global-types failures failures.bpf.c
//go:generate go tool -modfile=../tools/go.mod bpf2go -tags linux -target bpfel -cc clang -cflags "-O2 -g -Wall -Werror -mcpu=v3" -strip llvm-strip -no-global-types timers timers.bpf.c
//go:generate go tool -modfile=../tools/go.mod bpf2go -tags linux -target bpfel -cc clang -cflags "-O2 -g -Wall -Werror -mcpu=v3" -strip llvm-strip -no-global-types interrupts interrupts.bpf.c
//go:generate go tool -modfile=../tools/go.mod bpf2go -tags linux -target bpfel -cc clang -cflags "-O2 -g -Wall -Werror -mcpu=v3" -strip llvm-strip -no-global-types tasks tasks.bpf.c
//go:generate go tool -modfile=../tools/go.mod bpf2go -tags linux -target bpfel -cc clang -cflags "-O2 -g -Wall -Werror -mcpu=v3" -strip llvm-strip -no-global-types requests requests.bpf.c
