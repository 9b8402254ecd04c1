// Package incidents holds recordings of real lab runs (.frz) with the verdict
// each must give (.json beside it). Its test replays them all, so that every
// change of a rule is held against every incident.
package incidents
