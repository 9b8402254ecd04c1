package lab

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"freezeframe/lab/vm/wire"
)

// envHost says that what the lab prints is read by the host of a virtual machine.
const envHost = "FFLAB_HOST"

// NeedsUnits says why no program can be run as a unit of systemd here.
func NeedsUnits() error {
	if _, err := os.Stat("/run/systemd/system"); err != nil {
		return errors.New("needs systemd to run here")
	}
	if !isV2(cgroupRoot) {
		return errors.New("needs the cgroups of version 2 only")
	}
	return nil
}

// NeedsHost says why there is nobody to pause this machine.
func NeedsHost() error {
	if os.Getenv(envHost) == "" {
		return errors.New("needs a virtual machine whose host does what the lab asks for")
	}
	return nil
}

// AskHost has the host of the virtual machine do something: "freeze 500ms".
func (s *Scene) AskHost(words string) {
	_, err := fmt.Println(wire.Ask + words)
	s.Check(err)
}

// Unit is a place as a service of systemd, with a name of its own and these
// properties: "CPUQuota=20%". A report has to name it.
func (s *Scene) Unit(properties ...string) Place {
	p := Place{Unit: s.Name("svc") + ".service", Properties: properties}
	s.Blame(Guilty{Units: []string{p.Unit}, Cgroups: []string{"/system.slice/" + p.Unit}})
	return p
}

// SetProperty changes a unit as an administrator does, until it is stopped.
func (s *Scene) SetProperty(p Place, property string) {
	s.Check(command("systemctl", "set-property", "--runtime", p.Unit, property))
}

// asUnit has systemd run what cmd would: its standard streams stay this
// process's, and it ends when the unit does.
func asUnit(p Place, cmd *exec.Cmd) *exec.Cmd {
	args := []string{"--quiet", "--pipe", "--wait", "--collect", "--unit=" + p.Unit}
	for _, property := range p.Properties {
		args = append(args, "--property="+property)
	}
	for _, e := range cmd.Env {
		if strings.HasPrefix(e, "FFLAB_") || strings.HasPrefix(e, "PATH=") || strings.HasPrefix(e, "HOME=") {
			args = append(args, "--setenv="+e)
		}
	}
	unit := exec.Command("systemd-run", append(append(args, "--"), cmd.Args...)...)
	unit.SysProcAttr = cmd.SysProcAttr
	return unit
}

// mainPID is the process that systemd started for a unit.
func mainPID(unit string) (int, error) {
	for range 200 {
		out, err := exec.Command("systemctl", "show", "--property=MainPID", "--value", unit).Output()
		if err != nil {
			return 0, fmt.Errorf("ask systemd for %s: %w", unit, err)
		}
		if pid, err := strconv.Atoi(strings.TrimSpace(string(out))); err == nil && pid > 0 {
			return pid, nil
		}
		time.Sleep(50 * time.Millisecond)
	}
	return 0, fmt.Errorf("%s has no process", unit)
}

// stopUnit ends a unit with all that is in it.
func stopUnit(a []string) error {
	state, err := exec.Command("systemctl", "show", "--property=LoadState", "--value", a[0]).Output()
	if err != nil {
		return err
	}
	if strings.TrimSpace(string(state)) == "not-found" {
		return nil
	}
	if err := command("systemctl", "kill", "--signal=KILL", a[0]); err != nil && !strings.Contains(err.Error(), "not loaded") {
		return err
	}
	err = command("systemctl", "stop", a[0])
	if err != nil && strings.Contains(err.Error(), "not loaded") {
		return nil // it was collected meanwhile
	}
	return err
}
