package reports

import (
	"time"

	"freezeframe"
)

// StatusSchema is the schema of the document of `status --json`.
const StatusSchema = "freezeframe.status/v1"

// Status says what the daemon is doing. Where none runs, only Running (false)
// and Why are set.
type Status struct {
	Schema  string    `json:"schema"`
	Running bool      `json:"running"`
	Why     string    `json:"why,omitempty"` // no daemon answers
	Version string    `json:"version,omitempty"`
	PID     int       `json:"pid,omitempty"`
	Started time.Time `json:"started,omitzero"`
	// Config is the file that was read, "" for none. ConfigErr is why the
	// last reload kept the configuration before it.
	Config    string `json:"config,omitempty"`
	ConfigErr string `json:"config_error,omitempty"`
	// Without is what the daemon asked for and did not get (real-time
	// priority, locked memory), each with its reason.
	Without []string `json:"without"`
	// Coverage is what is watched, what is not seen, and what recording costs.
	Coverage freezeframe.Coverage `json:"coverage"`
	// Stalled is what is going on now; nil: nothing is.
	Stalled *StalledNow    `json:"stalled,omitempty"`
	Box     BoxStatus      `json:"black_box"`
	Reports ReportsStatus  `json:"reports"`
	Control *ControlStatus `json:"control,omitempty"`
	// Incidents are the last few, the newest first.
	Incidents []Incident `json:"incidents"`
}

// StalledNow is a stall that is not over.
type StalledNow struct {
	Since time.Time `json:"since"`
	What  string    `json:"what"` // who waits for what
}

// BoxStatus is the black box on disk.
type BoxStatus struct {
	Dir      string `json:"dir,omitempty"`
	Bytes    int64  `json:"bytes"`
	MaxBytes int64  `json:"max_bytes"`
	Segments int    `json:"segments"`
	// Oldest and Newest are the first and the last reading on disk; zero
	// while there is none.
	Oldest time.Time `json:"oldest,omitzero"`
	Newest time.Time `json:"newest,omitzero"`
	LagMs  float64   `json:"lag_ms"`          // since what was recorded last reached the disk
	Gaps   uint64    `json:"gaps"`            // times in which readings were lost before they could be written
	Err    string    `json:"error,omitempty"` // why nothing is written now
}

// ReportsStatus is the archive of reports.
type ReportsStatus struct {
	Dir      string    `json:"dir,omitempty"`
	Count    int       `json:"count"`
	Bytes    int64     `json:"bytes"`
	MaxBytes int64     `json:"max_bytes"`
	Oldest   time.Time `json:"oldest,omitzero"`
	Err      string    `json:"error,omitempty"`
}

// ControlStatus is what the control socket has been asked since the daemon
// started. The server fills it in.
type ControlStatus struct {
	Connections int64  `json:"connections"` // open now
	Answered    uint64 `json:"answered"`
	Refused     uint64 `json:"refused"` // neither root nor in the group
	Busy        uint64 `json:"busy"`    // turned away because others were being answered
	Broken      uint64 `json:"broken"`  // sent garbage, were too slow, or went away
}

// Normalize makes the document whole and its strings clean.
func (s *Status) Normalize() {
	s.Schema = StatusSchema
	cleanAll(s)
}
