package bpf

import (
	"strconv"

	"freezeframe/internal/kernel"
)

func nowNS() uint64 { return uint64(kernel.Now()) }

func itoa(n int) string { return strconv.Itoa(n) }
