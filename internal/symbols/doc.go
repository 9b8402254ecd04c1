// Package symbols turns addresses into names: of the kernel, of native
// programs and libraries, of stripped Go programs, and of code that a JIT made.
//
// Nothing here runs on a sampling lane. Reading a process's mappings takes its
// mmap_lock and opening its files can hang with their filesystem, so every such
// piece of work is done on a goroutine of its own, with a deadline, and no more
// than a few of them may be stuck at a time; what could not be had in time is
// "[unknown]". Everything that is kept is bounded.
//
// Files, symbol tables and JIT maps belong to those who are watched: they are
// read with bounds, never trusted, and no file is kept open, so that nothing
// here holds up an unmount.
//
// The address of a caller is where the call returns to, which can be the first
// byte of another function when the call never returns (a panic, do_exit):
// KernelStack and User look up the byte before it for every frame but the
// innermost.
package symbols
