//go:build !amd64

package kernel

var archSyscallNames = map[int64]string{}
