package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"time"

	"freezeframe"
	"freezeframe/bpf"
	"freezeframe/collectors"
	"freezeframe/internal/kernel"
	"freezeframe/recorder"
)

func main() {
	dir := flag.String("dir", "", "")
	d := flag.Duration("for", 5*time.Minute, "")
	full := flag.Duration("full", time.Minute, "")
	nobox := flag.Bool("nobox", false, "")
	prof := flag.String("prof", "", "")
	flag.Parse()
	ring := recorder.NewRing(recorder.DefaultBytes)
	progs := bpf.Load(bpf.Options{})
	host := freezeframe.Host{Proc: "/proc", Sys: "/sys", Texts: ring.Texts(), Focus: &freezeframe.Focus{}}
	s := recorder.NewSampler(ring, host, collectors.All(progs))
	if err := s.Start(); err != nil {
		panic(err)
	}
	b, u, err := recorder.OpenBox(recorder.BoxOptions{Dir: *dir, Full: *full})
	if err != nil {
		panic(err)
	}
	fmt.Printf("unclean %+v\n", u)
	ctx, cancel := context.WithTimeout(context.Background(), *d)
	defer cancel()
	if *prof != "" {
		f, _ := os.Create(*prof)
		pprof.StartCPUProfile(f)
		defer pprof.StopCPUProfile()
	}
	begin := kernel.ProcessCPU()
	w0 := ring.Stats().Written
	done := make(chan struct{})
	go func() {
		defer close(done)
		if !*nobox {
			b.Run(ctx, ring, nil)
		} else {
			<-ctx.Done()
		}
	}()
	var ms runtime.MemStats
	peak := uint64(0)
loop:
	for i := 0; ; i++ {
		select {
		case <-done:
			break loop
		case <-time.After(time.Second):
		}
		runtime.ReadMemStats(&ms)
		peak = max(peak, ms.HeapInuse)
		if i%30 == 29 {
			st := b.Stats()
			w := ring.Stats().Written
			fmt.Printf("%4ds cpu %v plain %d written %d thinned %d disk %d segs %d lag %v heap %d peak %d sys %d gc %d err %q gaps %d\n", i+1, kernel.ProcessCPU()-begin, w[0]+w[1]+w[2]-w0[0]-w0[1]-w0[2], st.Written, st.Thinned, st.Bytes, st.Segments, st.Lag, ms.HeapInuse, peak, ms.Sys, ms.NumGC, st.Err, st.GapCount)
		}
	}
	s.Stop()
	fmt.Println(b.Close(), b.Needs())
	e, _ := filepath.Glob(filepath.Join(*dir, "*.frz"))
	for _, p := range e {
		i, _ := os.Stat(p)
		fmt.Println(filepath.Base(p), i.Size())
	}
}
