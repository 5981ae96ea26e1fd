-- A tour of skep over real data: every flight that left New York City in January and February of
-- 2013, the weather at its three airports, and a day of a web server's access log.
-- Run it from the root of the repository: skep -f datasets/tour.sql
-- Running it again is fine. What the files are and where they come from: datasets/README.md

-- Files become tables in the dialect that you know. Spark's temporary views last for the session:
CREATE OR REPLACE TEMPORARY VIEW airlines USING csv
OPTIONS (path 'datasets/airlines.csv', header 'true', inferSchema 'true');

CREATE OR REPLACE TEMPORARY VIEW airports USING csv
OPTIONS (path 'datasets/airports.csv', header 'true', inferSchema 'true', nullValue 'NA');

CREATE OR REPLACE TEMPORARY VIEW planes USING csv
OPTIONS (path 'datasets/planes.csv', header 'true', inferSchema 'true', nullValue 'NA');

CREATE OR REPLACE TEMPORARY VIEW weather USING csv
OPTIONS (path 'datasets/weather.csv', header 'true', inferSchema 'true', nullValue 'NA');

-- DataFusion's external tables are kept, here in a schema of their own:
CREATE SCHEMA IF NOT EXISTS tour;
DROP TABLE IF EXISTS tour.flights;
CREATE EXTERNAL TABLE tour.flights STORED AS PARQUET LOCATION 'datasets/flights.parquet';

-- 1. Which airlines fly most from New York, and how late do they arrive?
SELECT '1. Which airlines fly most from New York, and how late do they arrive?' AS question;

SELECT
    a.name AS airline,
    count(*) AS flights,
    round(avg(f.arr_delay), 1) AS mean_delay,
    median(f.arr_delay) AS median_delay,
    round(100.0 * count(*) FILTER (WHERE f.dep_time IS NULL) / count(*), 1) AS cancelled_percent
FROM tour.flights f
JOIN airlines a ON a.carrier = f.carrier
GROUP BY a.name
ORDER BY flights DESC, airline;

-- 2. When should one leave? The mean delay grows through the day, on working days and weekends.
SELECT '2. When should one leave?' AS question;

SELECT
    hour,
    round(avg(dep_delay) FILTER (WHERE date_part('dow', time_hour) BETWEEN 1 AND 5), 1) AS workday,
    round(avg(dep_delay) FILTER (WHERE date_part('dow', time_hour) IN (0, 6)), 1) AS weekend,
    count(*) AS flights
FROM tour.flights
GROUP BY hour
HAVING count(*) > 100
ORDER BY hour;

-- 3. What does the weather do to departures? Each flight meets the hour's weather at its airport.
SELECT '3. What does the weather do to departures?' AS question;

SELECT
    CASE
        WHEN w.visib < 1 THEN '1 fog: under a mile'
        WHEN w.precip > 0 THEN '2 rain or snow'
        WHEN w.wind_speed > 20 THEN '3 wind: over 20 mph'
        ELSE '4 fair'
    END AS conditions,
    count(*) AS flights,
    round(avg(f.dep_delay), 1) AS mean_delay,
    round(100.0 * count(*) FILTER (WHERE f.dep_time IS NULL) / count(*), 1) AS cancelled_percent
FROM tour.flights f
JOIN weather w ON w.origin = f.origin AND w.time_hour = f.time_hour
GROUP BY 1
ORDER BY 1;

-- 4. Which days went wrong? Cancellations beside their mean over the week; the storm Nemo shows.
SELECT '4. Which days went wrong?' AS question;

WITH days AS (
    SELECT
        make_date(year, month, day) AS date,
        count(*) AS flights,
        count(*) FILTER (WHERE dep_time IS NULL) AS cancelled
    FROM tour.flights
    GROUP BY 1
), compared AS (
    SELECT
        date,
        flights,
        cancelled,
        round(avg(cancelled) OVER (ORDER BY date ROWS BETWEEN 3 PRECEDING AND 3 FOLLOWING), 1)
            AS mean_of_week
    FROM days
)
SELECT date, flights, cancelled, mean_of_week, repeat('#', CAST(cancelled / 10 AS INT)) AS chart
FROM compared
WHERE cancelled > 60
ORDER BY date;

-- 5. Which routes are busiest, and how fast are they flown?
SELECT '5. Which routes are busiest, and how fast are they flown?' AS question;

SELECT
    f.origin || ' to ' || f.dest AS route,
    a.name AS destination,
    count(*) AS flights,
    max(f.distance) AS miles,
    round(avg(60.0 * f.distance / f.air_time), 0) AS miles_per_hour
FROM tour.flights f
LEFT JOIN airports a ON a.faa = f.dest
GROUP BY f.origin, f.dest, a.name
ORDER BY flights DESC, route
LIMIT 10;

-- 6. From each airport, which three destinations are reached latest?
SELECT '6. From each airport, which three destinations are reached latest?' AS question;

WITH delays AS (
    SELECT origin, dest, count(*) AS flights, avg(arr_delay) AS delay
    FROM tour.flights
    GROUP BY origin, dest
    HAVING count(*) >= 50
), ranked AS (
    SELECT *, rank() OVER (PARTITION BY origin ORDER BY delay DESC) AS place
    FROM delays
)
SELECT origin, place, dest, flights, round(delay, 1) AS mean_delay
FROM ranked
WHERE place <= 3
ORDER BY origin, place;

-- 7. Does a late plane stay late? Each departure beside the delay of the same plane's last one,
--    if that was on the same day.
SELECT '7. Does a late plane stay late?' AS question;

WITH legs AS (
    SELECT
        dep_delay,
        lag(dep_delay) OVER (PARTITION BY tailnum, month, day ORDER BY dep_time) AS last_delay
    FROM tour.flights
    WHERE tailnum IS NOT NULL AND dep_time IS NOT NULL
)
SELECT
    CASE
        WHEN last_delay IS NULL THEN '1 first flight of the day'
        WHEN last_delay <= 0 THEN '2 was on time'
        WHEN last_delay <= 30 THEN '3 was up to 30 minutes late'
        ELSE '4 was later than that'
    END AS plane,
    count(*) AS flights,
    round(avg(dep_delay), 1) AS mean_delay
FROM legs
GROUP BY 1
ORDER BY 1;

-- 8. Who builds the planes, and how old are they? Makers of one name in several spellings are one.
SELECT '8. Who builds the planes, and how old are they?' AS question;

SELECT
    CASE WHEN p.manufacturer LIKE 'AIRBUS%' THEN 'AIRBUS'
         WHEN p.manufacturer LIKE 'MCDONNELL%' THEN 'MCDONNELL DOUGLAS'
         ELSE p.manufacturer END AS maker,
    count(DISTINCT p.tailnum) AS planes,
    count(*) AS flights,
    round(avg(2013 - p.year), 1) AS mean_age,
    sum(p.seats) AS seats_flown
FROM tour.flights f
JOIN planes p ON p.tailnum = f.tailnum
GROUP BY 1
HAVING count(*) > 200
ORDER BY flights DESC;

-- A file needs no table at all: its path stands for it.

-- 9. When is the web server busy, and with what success?
SELECT '9. When is the web server busy, and with what success?' AS question;

SELECT
    date_trunc('hour', CAST(time AS TIMESTAMP)) AS hour,
    count(*) AS requests,
    count(*) FILTER (WHERE status BETWEEN 200 AND 299) AS ok,
    count(*) FILTER (WHERE status BETWEEN 300 AND 399) AS unchanged_or_moved,
    count(*) FILTER (WHERE status >= 400) AS failed,
    round(sum(bytes) / 1e6, 1) AS megabytes
FROM 'datasets/access_log.json'
GROUP BY 1
ORDER BY 1;

-- 10. Which pages do people read? Without images, scripts, feeds, and the readers that are robots.
SELECT '10. Which pages do people read?' AS question;

SELECT path, count(*) AS views, count(DISTINCT address) AS visitors
FROM 'datasets/access_log.json'
WHERE method = 'GET'
    AND status = 200
    AND lower(agent) NOT LIKE '%bot%'
    AND lower(agent) NOT LIKE '%spider%'
    AND lower(agent) NOT LIKE '%feed%'
    AND (path LIKE '%/' OR path LIKE '%.html')
    AND path NOT LIKE '%?%'
GROUP BY path
ORDER BY views DESC, path
LIMIT 10;

-- 11. Which visits lasted longest? A visit ends when its address is silent for 90 minutes.
SELECT '11. Which visits lasted longest?' AS question;

WITH requests AS (
    SELECT address, CAST(time AS TIMESTAMP) AS moment FROM 'datasets/access_log.json'
), gaps AS (
    SELECT
        address,
        moment,
        lag(moment) OVER (PARTITION BY address ORDER BY moment) AS last_moment
    FROM requests
), visits AS (
    SELECT
        address,
        moment,
        sum(CASE WHEN moment - last_moment < INTERVAL '90 minutes' THEN 0 ELSE 1 END)
            OVER (PARTITION BY address ORDER BY moment) AS visit
    FROM gaps
)
SELECT
    address,
    min(moment) AS began,
    round(date_part('epoch', max(moment) - min(moment)) / 3600, 1) AS hours,
    count(*) AS requests
FROM visits
GROUP BY address, visit
ORDER BY hours DESC, address, began
LIMIT 5;

-- 12. How many flights were how late? A histogram by quarters of an hour.
SELECT '12. How many flights were how late?' AS question;

WITH RECURSIVE bins AS (
    SELECT -30 AS start
    UNION ALL
    SELECT start + 15 FROM bins WHERE start < 120
), counted AS (
    SELECT b.start, count(f.flight) AS flights
    FROM bins b
    LEFT JOIN tour.flights f ON f.arr_delay >= b.start AND f.arr_delay < b.start + 15
    GROUP BY b.start
)
SELECT start AS minutes_late, flights, repeat('#', CAST(flights / 300 AS INT)) AS chart
FROM counted
ORDER BY start;
