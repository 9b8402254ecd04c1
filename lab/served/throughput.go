package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"freezeframe/lab"
	"freezeframe/lab/victim"
)

// busyConnections ask a busy service without pause.
const busyConnections = 8

// busyServers do next to nothing for an answer: Go's net/http, as small servers
// are, and one thread around epoll_wait, for which the kernel's work is all there
// is.
var busyServers = []string{victim.Go, victim.Epoll}

// rush asks a service from so many connections without pause for as long as it
// is told, and says how many answers came a second: -conns N ADDRESS.
func rush(args []string) {
	flags := flag.NewFlagSet("rush", flag.ExitOnError)
	conns := flags.Int("conns", busyConnections, "")
	_ = flags.Parse(args)
	debug.SetGCPercent(-1)
	debug.SetMemoryLimit(256 << 20)
	runtime.GOMAXPROCS(*conns + 2)
	lab.Listen("", func(line string) {
		length, err := time.ParseDuration(line)
		if err != nil {
			fmt.Println(err)
			return
		}
		var stop atomic.Bool
		var wg sync.WaitGroup
		answers, errs := make([]int, *conns), make([]error, *conns)
		began := lab.Monotonic()
		for i := range *conns {
			wg.Go(func() {
				c := victim.Client{Address: flags.Arg(0)}
				defer c.Close()
				n := 0
				for ; !stop.Load() && errs[i] == nil; n++ {
					errs[i] = c.Get("/", true)
				}
				answers[i] = n
			})
		}
		time.Sleep(length)
		stop.Store(true)
		wg.Wait()
		took := lab.Monotonic() - began
		if err := errors.Join(errs...); err != nil {
			fmt.Println("failed:", err)
			return
		}
		all := 0
		for _, n := range answers {
			all += n
		}
		fmt.Println(strconv.FormatFloat(float64(all)/(float64(took)/1e9), 'f', 1, 64))
	})
}

// rates are what a service answered a second, with freezeframe and without.
type rates struct {
	Server        string
	Family        string
	With, Without []float64
	Ratio         float64 // of the medians
	Round         float64 // median of the rounds' own ratios
	Low, High     float64 // and their quartiles
}

// measureThroughput compares a busy service with freezeframe beside it and
// without, in turns.
func measureThroughput(l *lab.Lab, rounds int, each time.Duration, w io.Writer) (ok bool, err error) {
	var all []rates
	var cpu []float64 // of freezeframe, while it watched
	err = l.Free(1, func(s *lab.Scene) {
		s.Prefer(serverNice)
		var clients []*lab.Proc
		for _, kind := range busyServers {
			for _, family := range families {
				spec := victim.Spec{Name: "busy", Kind: kind}
				if family == "unix" {
					spec.Host = "unix:" + filepath.Join(s.Dir, "busy-"+kind+".sock")
				}
				server := s.Serve(spec, lab.Place{Nice: serverNice})
				clients = append(clients, s.Start(lab.Cmd{Name: "rush", Role: "rush", Args: []string{server.Address}, Place: lab.Place{Nice: serverNice}}))
				all = append(all, rates{Server: kind, Family: family})
			}
		}
		part := func() (rate []float64) {
			for i := range all {
				line, err := clients[i].Ask(each.String(), each+20*time.Second)
				s.Check(err)
				r, err := strconv.ParseFloat(line, 64)
				if err != nil {
					s.Fail("the client of the busy service: %s", line)
				}
				rate = append(rate, r)
			}
			return rate
		}
		watched := func() (rate []float64) {
			watch := s.Diagnose(time.Hour, filepath.Join(s.Dir, "watch"), false)
			time.Sleep(4 * time.Second) // its first looks do not count
			rate = part()
			var d struct {
				Coverage struct {
					Recorder struct {
						CPU float64 `json:"cpu_pct"`
					} `json:"recorder"`
				} `json:"coverage"`
			}
			s.Check(watch.End(&d))
			cpu = append(cpu, d.Coverage.Recorder.CPU)
			return rate
		}
		part() // to warm up
		for n := range rounds {
			var with, without []float64
			if n%2 == 0 { // who comes first takes turns as well
				with, without = watched(), part()
			} else {
				without, with = part(), watched()
			}
			for i := range all {
				all[i].With, all[i].Without = append(all[i].With, with[i]), append(all[i].Without, without[i])
			}
		}
	})
	if err != nil {
		return false, err
	}
	fmt.Fprintf(w, "%d connections ask one server without pause, %d rounds of %v, medians\n", busyConnections, rounds, each)
	fmt.Fprintf(w, "%-12s %14s %14s %8s %s\n", "", "requests/s", "with", "ratio", "  of the rounds: median, quartiles")
	for i := range all {
		r := &all[i]
		r.compare()
		fmt.Fprintf(w, "%-12s %14.0f %14.0f %8.3f   %.3f, %.3f to %.3f\n", r.Server+"/"+r.Family, median(r.Without), median(r.With), r.Ratio, r.Round, r.Low, r.High)
	}
	fmt.Fprintf(w, "freezeframe used %.2f %% of a CPU (median, by its own account)\n", median(cpu))
	if l.Out != "" {
		text, err := json.MarshalIndent(all, "", "  ")
		if err == nil {
			err = os.WriteFile(filepath.Join(l.Out, "throughput.json"), text, 0o644)
		}
		if err != nil {
			return false, err
		}
	}
	return true, nil
}

func (r *rates) compare() {
	r.Ratio = median(r.With) / median(r.Without)
	var each []float64
	for i := range r.With {
		each = append(each, r.With[i]/r.Without[i])
	}
	slices.Sort(each)
	r.Round = median(each)
	r.Low, r.High = each[len(each)/4], each[len(each)-1-len(each)/4]
}

// median returns the median; of an even number, the mean of the middle two.
func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	v := slices.Sorted(slices.Values(values))
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}
