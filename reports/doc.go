// Package reports turns a judged window into documents: the JSON contract, the
// text for a terminal, and one HTML file that works offline.
//
// Everything that came from the watched machine (process names, command lines,
// log lines) is hostile input. Build and Read make it safe once, with Clean;
// the writers then only escape for their own format.
package reports
