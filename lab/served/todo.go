package main

import (
	"io"
	"time"

	"freezeframe/lab"
)

func patientServices([]string) {}
func guests([]string)          {}
func rush([]string)            {}
func stayQuiet(*lab.Lab, time.Duration, uint64, io.Writer) (bool, error) { return false, nil }
func measureThroughput(*lab.Lab, int, time.Duration, io.Writer) (bool, error) { return false, nil }
