/* kill.h - numbered points at which a test lets this process die: LAYER8_KILL_AT=POINT:COUNT in the environment, and it
 * gets SIGKILL when the point is reached for the COUNT-th time. Not in an ordinary build.
 *
 *   1 to 16   the Vnet, in src/switch: send, switch, hold and adopt as it does them
 *   20 to 27  a Vnic, in src/port: 20 a record is written, 21 it is published, 22 between two fragments, 23 a batch is
 *             copied, 24 and 25 while its room is given back, 26 before it sleeps, 27 when the next Vnet's doorbell is taken
 */
#ifndef LAYER8_KILL_H
#define LAYER8_KILL_H

#ifdef LAYER8_KILL_POINTS
void layer8_kill_point(int point);
#define KILL_POINT(n) layer8_kill_point(n)
#else
#define KILL_POINT(n) ((void)0)
#endif

#endif
