package faults

import (
	"io"
	"os"
	"syscall"
	"time"

	"freezeframe/lab"
	"freezeframe/lab/victim"
)

var fsPipeFull = []lab.Fault{
	{
		Name:      "fs.pipe_full/reader-stopped",
		Cause:     "fs.pipe_full",
		AlsoOK:    []string{"app.stopped"}, // why the reader does not read: as deep as it goes
		About:     "the reader of a log pipe is stopped; a threaded Python service writes its log there",
		MissAbout: "the reader reads only every 30 ms",
		Needs:     program("python3"),
		Shortest:  time.Second, // the pipe has to fill first
		Run: func(s *lab.Scene) {
			pipe(s, victim.Threads, "0s", func(reader *lab.Proc) (begin, end func()) {
				s.BlameLab() // it sends the signal
				return func() { s.Check(reader.Signal(syscall.SIGSTOP)) }, func() { s.Check(reader.Signal(syscall.SIGCONT)) }
			})
		},
		Miss: func(s *lab.Scene) {
			pipe(s, victim.Threads, "30ms", func(*lab.Proc) (begin, end func()) { return func() {}, func() {} })
		},
		Roles: map[string]func([]string){"pipereader": pipeReader},
	},
	{
		Name:      "fs.pipe_full/reader-busy",
		Cause:     "fs.pipe_full",
		About:     "the reader of a Go service's log pipe does something else for a while",
		MissAbout: "the reader reads only every 30 ms",
		Shortest:  time.Second,
		Run: func(s *lab.Scene) {
			pipe(s, victim.Go, "0s", func(reader *lab.Proc) (begin, end func()) {
				return func() { s.Check(reader.Say("pause")) }, func() { s.Check(reader.Say("go")) }
			})
		},
		Miss: func(s *lab.Scene) {
			pipe(s, victim.Go, "30ms", func(*lab.Proc) (begin, end func()) { return func() {}, func() {} })
		},
	},
}

func pipe(s *lab.Scene, kind, every string, edges func(reader *lab.Proc) (begin, end func())) {
	fifo := s.Fifo("log.fifo")
	reader := s.Start(lab.Cmd{Name: "logshipper", Role: "pipereader", Args: []string{fifo, every}})
	svc := s.Serve(victim.Spec{Name: "orders", Kind: kind, Work: []string{"pipe:" + fifo}}, lab.Place{})
	s.BlameGroup(reader)
	s.Watch(svc)
	s.Break(edges(reader))
}

// pipeReader reads a pipe, but not between "pause" and "go".
func pipeReader(args []string) {
	every, _ := time.ParseDuration(args[1])
	pause, resume := make(chan struct{}), make(chan struct{})
	// O_RDWR: opening a FIFO for reading alone waits for a writer.
	f, err := os.OpenFile(args[0], os.O_RDWR, 0)
	if err != nil {
		io.WriteString(os.Stderr, err.Error())
		os.Exit(1)
	}
	go func() {
		buf := make([]byte, 64<<10)
		for {
			select {
			case <-pause:
				<-resume
			default:
			}
			if _, err := f.Read(buf); err != nil {
				return
			}
			time.Sleep(every)
		}
	}()
	lab.Listen("", func(line string) {
		if line == "pause" {
			pause <- struct{}{}
		} else {
			resume <- struct{}{}
		}
	})
}
