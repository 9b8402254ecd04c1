// Package probes does small pieces of real work all the time, and watches the
// real work of the host's services, and reports what is late. A probe never
// looks at how busy a resource is: only work that did not get done counts.
package probes
